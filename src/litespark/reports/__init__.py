"""Reads runs from their folders and records of benchmarks, and shows them: tables, pictures and pages."""
