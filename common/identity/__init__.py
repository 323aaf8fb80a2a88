"""Who somebody is: keys and signatures, the roster of who takes part, the kit that a site starts from."""
