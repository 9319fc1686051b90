"""Where the ``python_param`` of a class under test finds it: ``definition`` puts classes here by their names."""
