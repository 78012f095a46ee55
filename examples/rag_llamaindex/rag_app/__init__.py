"""Questions to a folder of documents, answered by a model in this process."""
