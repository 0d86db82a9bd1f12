def write_ablation(*a): pass
