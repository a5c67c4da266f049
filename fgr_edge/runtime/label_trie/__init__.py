"""All class names as one trie of tokens, and their scores by tree attention."""
