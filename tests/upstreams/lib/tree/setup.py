raise SystemExit("the recipe's own file should be here")
