"""The paper: pretraining, fine-tuning, the semi-supervised stage, and what they are made of."""
