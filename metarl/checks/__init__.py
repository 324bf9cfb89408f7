"""Signs that an environment or a number is not what it claims to be: each is named."""
