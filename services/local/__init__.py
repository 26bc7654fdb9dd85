"""Runs the whole mesh on one machine: ports, certificates, processes and their logs."""
