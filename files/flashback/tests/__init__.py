"""Tests of the backup engine."""
