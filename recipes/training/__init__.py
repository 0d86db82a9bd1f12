"""Supervised fine-tuning and GRPO: launch, trainers, losses, rewards."""
