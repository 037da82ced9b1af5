"""Measurements that can be repeated: ratios against something measured in the same run."""
