"""The data room: rows become conversations, conversations become tokens, tokens become packs."""
