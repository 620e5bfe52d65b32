"""What a run leaves behind: its layout, atomic commits, hashes, the lock, the manifest.

Everything that is written into a run goes through `store.Store`. A folder without a valid COMMIT.json does
not exist as far as any command is concerned, no pointer to the newest is kept, and nothing is ever pickled.
"""
