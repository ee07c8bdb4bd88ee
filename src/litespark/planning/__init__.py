"""The cost of a training step (FLOPs, bytes, memory, communication) computed from sizes, before anything is built.

`flops` is what MFU and HFU are made of, `op_costs` is the bytes of single ops, `roofline` puts both over the rates of a
device, `memory` is the training state, and `communication` is what ranks send to each other. Never imports Lightning.
"""
