"""Measurements of this code against something else, each with a record that can be committed under results/."""
