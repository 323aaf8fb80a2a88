"""The patient-wise GRPO step: one patient's questions and rollouts give one gradient."""
