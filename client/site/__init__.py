"""What a site is: its configuration, keys and roster, opt-outs, folders, the opened registry and its split."""
