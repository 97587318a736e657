"""Named evaluation protocols over well-kept metric libraries. Numbers here know nothing of files.

quality, perceptual, sharpness      one value per output beside its real image
segmentation                        a judge's prediction beside the layout
fidelity, frechet, distances        a set beside a set, in features named so
divergence                          what a classifier of scenes says of outputs and real images
recall, galleries, histogram        does an embedder find the place, beside colors alone
correspondence, diversity           does an output show its place, and how do outputs differ
retrieval, copying                  pieces of a bank, and what was copied from them or from training images
intervals, scores, choice           how sure a number is, its protocol, and which can be computed
samples, measure, instruments       what is looked at, once, by what
report, compare, history, curves    the page, several side by side, and where samples came from
"""
