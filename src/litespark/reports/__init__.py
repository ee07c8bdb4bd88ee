"""Reads runs from their folders and records of benchmarks, and shows them: tables, pictures and pages.

Every table is a `Table`, made of the same rows in the terminal and on a page; pages are templates in `templates`. No
model, data set or trainer is needed.
"""
