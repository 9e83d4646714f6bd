"""Training: the objective, the loops that train a task's lanes, and callbacks for one's own ``fit``."""
