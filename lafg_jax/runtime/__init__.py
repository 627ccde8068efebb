"""Devices and processes: what runs around the work, whatever the work is."""
