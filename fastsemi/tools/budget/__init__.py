"""How long the stages of a run may be, so that it ends in the time it is given."""
