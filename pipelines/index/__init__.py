"""What finds the pieces of a bank: shapes under the exact geometric score, vectors in faiss, and who is a neighbor."""
