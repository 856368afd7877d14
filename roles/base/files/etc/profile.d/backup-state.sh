# Managed by Ansible: role base
# Greets whoever logs in with the queue of the backups, as the engine wrote it last.
if [ -t 1 ]; then
    cat /run/flashback/queue 2>/dev/null || echo "Nothing is known of the backups; try: flashback status"
fi
