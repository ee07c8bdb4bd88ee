"""What a run measures: metric names, the run record, throughput, utilisation, energy and validation quality.

No Lightning and no configuration library, so that every number can be tested without a trainer or a GPU.
"""
