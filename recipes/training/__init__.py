"""Supervised fine-tuning and GRPO, and the private parts of TRL that they build on.

TRL promises nothing about names that begin with an underscore, so setup.cfg admits one minor version of it, and
tests/test_trl_seams.py says what is missing or takes other arguments in another one.
"""

# By class of TRL: methods that a trainer of ours overrides, and attributes that it reads or sets.
TRL_METHODS = {
    "GRPOTrainer": (
        "_calculate_rewards",
        "_compute_loss",
        "_generate_and_score_completions",
        "_generate_single_turn",
        "_get_per_token_logps_and_entropies",
        "_get_train_sampler",
        "_prepare_inputs",
        "_tokenize_prompts",
    ),
    "SFTTrainer": (),
}
TRL_ATTRIBUTES = {"GRPOTrainer": ("_buffered_inputs", "_metrics", "_step", "_tokenizer"), "SFTTrainer": ("_metrics",)}
