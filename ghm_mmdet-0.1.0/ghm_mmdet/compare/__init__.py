"""The comparison of a config with and without GHM: its arms, its verdict, its page."""
