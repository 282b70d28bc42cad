"""The API as the operator sees it: types, names, conditions. Pure."""
