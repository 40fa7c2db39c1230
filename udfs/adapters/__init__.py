"""What Spark calls: each adapter makes a function for `mapInArrow`.

The work is done by the plain functions outside; an adapter only takes columns apart and puts them together.
"""
