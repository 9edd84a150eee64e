"""Items, and what is composed of them: datasets over datasets, subsets that choose, splits, numbers by address."""
