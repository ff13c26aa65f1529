"""Commands that ask servers what they have and do."""
