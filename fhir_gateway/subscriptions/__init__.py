"""Who wants to be told of what: topic-based subscriptions (R5 backport 1.1.0 to R4), their events and notifications."""
