"""Language feedback as a reward: texts, judges, labels, and the models distilled from them."""
