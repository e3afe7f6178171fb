"""A campaign as files: a candidate's model folder, and the population as a table or a study."""
