"""Tools of the machine that runs Ansible."""
