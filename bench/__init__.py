"""Measure this project's engine side by side with other backup programs; `python -m bench --help`."""
