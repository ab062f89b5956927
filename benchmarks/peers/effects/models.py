"""One row for each job that wrote; a number that is missing or there twice is a job that did not run exactly once."""

from django.db import models


class Effect(models.Model):
    number = models.IntegerField()
