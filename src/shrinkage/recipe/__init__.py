"""Recipes: which penalty on which targets of which layers; bound to a model, in force, described, checked."""

from shrinkage.recipe.bind import Plan, Term, apply, attach, bind, strip
from shrinkage.recipe.charges import Charge, Description, charges, describe
from shrinkage.recipe.live import make_live
from shrinkage.recipe.recipe import Recipe, Rule
from shrinkage.recipe.select import Site, Weight, sites, weights

__all__ = [
    "Charge",
    "Description",
    "Plan",
    "Recipe",
    "Rule",
    "Site",
    "Term",
    "Weight",
    "apply",
    "attach",
    "bind",
    "charges",
    "describe",
    "make_live",
    "sites",
    "strip",
    "weights",
]
