"""How Frontrow is brought up: on one machine (`deploy.local`), and elsewhere."""
