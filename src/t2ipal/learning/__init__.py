"""Stage 4: prompts, prototypes and adapter learned on cached features, and the scores they give."""
