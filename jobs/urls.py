"""Where machines find the queue's metrics and health; include at the root of a project."""

from django.urls import path

from . import views

app_name = "jobs"
urlpatterns = [
    path("metrics", views.metrics, name="metrics"),
    path("healthz", views.healthz, name="healthz"),
    path("readyz", views.readyz, name="readyz"),
]
