"""What a round asks of a site: questions, gradients, releases and metrics, and the site's own log of them."""
