"""Ansible module: the folder that a disk is mounted on, into which nothing can be written while it is not."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: mount_point
short_description: Make the folder that a disk is mounted on, immutable while the disk is away
description:
  - The folder below the mount bears the attribute C(immutable), so that a program that misses the disk can not fill
    the system's own instead. The mounted file system is not touched.
  - A file system that knows no such attribute is left alone, with a warning.
  - A folder that holds something already is refused, for nobody would see it below the disk.
options:
  path: {description: The folder., type: path, required: true}
author: The authors of this project
"""
EXAMPLES = r"""
- name: Make the mount point
  mount_point: {path: /srv/backup}
"""
RETURN = "{}"

# In a mount namespace of its own, what the disk covers is looked at through a second view of the file system below.
SCRIPT = r"""
parent=$(dirname "$1")
top=$(findmnt --noheadings --output TARGET --target "$parent")
view=$(mktemp --directory /run/mount-point.XXXXXX)
trap 'umount "$view"; rmdir "$view"' EXIT
mount --bind "$top" "$view"
place=$view/${1#"$top"}
if [ ! -d "$place" ]; then
    [ "$2" = look ] && { echo changed; exit; }
    mkdir --parents "$place"
fi
case $(lsattr -d "$place" | cut -d ' ' -f 1) in
    *i*) echo same; exit ;;
esac
[ -z "$(ls -A "$place")" ] || { echo "not empty"; exit; }
[ "$2" = look ] && { echo changed; exit; }
chown root:root "$place"
chmod 0755 "$place"
chattr +i "$place" && echo changed || echo unable
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule({"path": {"type": "path", "required": True}}, supports_check_mode=True)
    path = module.params["path"]
    apart = ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", SCRIPT, "sh"]
    code, said, errors = module.run_command([*apart, path, "look" if module.check_mode else "do"])
    words = said.strip()
    if code != 0:
        module.fail_json(msg=f"{path} can not be made a mount point: {errors.strip()}")
    if words == "not empty":
        module.fail_json(
            msg=f"The folder {path} below the backup disk holds files of the system's own disk. "
            "Move them away with the disk unmounted, then run this again"
        )
    if words == "unable":
        module.warn(f"{path} can not be made immutable: {errors.strip()}")
    module.exit_json(changed=words == "changed")


if __name__ == "__main__":
    main()
