"""Supervised fine-tuning and GRPO, and the private parts of TRL that they build on.

TRL does not guarantee names that begin with an underscore, so setup.cfg pins its minor version, and
tests/test_trl_seams.py reports which of them are missing or have changed in another version.
"""

# By TRL class: methods that our trainers override, and attributes that they use.
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
