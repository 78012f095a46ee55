"""Between messages and token ids: rendering prompts, parsing answers. No torch in here."""
