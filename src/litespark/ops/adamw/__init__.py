"""AdamW's update of many tensors in one kernel."""
