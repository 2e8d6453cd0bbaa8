"""Goals that are proposed for the present state, and the reward for reaching them."""
