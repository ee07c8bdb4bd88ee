"""What a run measures: metric names, the run record, throughput, utilisation, energy and validation quality.

Plain Python and PyTorch: no Lightning and no configuration library, so that every number can be tested without a
trainer or a GPU. The callbacks feed these parts; the reports read what they wrote.
"""
