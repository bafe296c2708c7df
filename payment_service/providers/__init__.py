"""Who moves the money: `sandbox` pretends to, `http` asks a payment service provider."""
