"""What the note of agreement says below its tables (`scripts/vram_agreement.py --table`)."""

NOTES = """Of lorafit's own engine, with full rows of equal length: no row of its is padded. Seeds from 1000 on draw
what the others leave out: classifiers, int8, dropout of the model's own, layers of which some are recomputed, shared
experts, windows in float32, few targets, float16, rows of which a quarter predicts. Seeds from 2000 on draw plain
transformers and PEFT, as installed: padded rows with a mask and rows of one length, torch's kernels and eager
attention, what is turned to float32, with autocast and without. Not traced: FlashAttention-2 under transformers, which
needs a card (`scripts/vram_accuracy.py` has published runs); Falcon and StableLM, whose code does not go through its
table of attention kernels, so that a run refuses them too.

What a draw shows is mended in the estimate, so that only an unseen one tells how far off it is elsewhere. Seed 8 was
drawn after what 7, 1007, 2007, 3007 and 4007 had shown was mended, and nothing was mended by it: a median below 0.01 %,
0.06 % at the 95th percentile and 0.57 % at worst of 100. Of seed 1008, drawn then too, one showed a fault of the trace,
which left out layers between the second and the last but one where layers differ. Not traced are runs that a card
refuses, such as float32 norms before a 16-bit head without autocast.

The target is 500 of the first draw. A change of the engine makes old traces void: those of 4 bits, of several kinds of
layers and of few targets are of the engine as it is, DoRA's of the state since its last change, and the others saw no
change that reaches them; but seeds from 2000 on are of the state before bitsandbytes' layer held its input while its
answer is brought back. Counted to each trace are both workspaces of cuBLAS. The script goes on from where it stopped,
in several processes too, each with numbers of its own.
"""
