"""Table of all log events: the id, the levels and the message of each.

An id never changes. `logs` adds the message to each line, so that a call names the id and the facts only.
"""

from __future__ import annotations

from dataclasses import dataclass

LIBRARY = "library_message"  # a line of a library; its message is the library's own text


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Log event: its levels and its message."""

    levels: str
    message: str


EVENTS = {
    "calls_aborted": LogEvent(
        "info", "Calls did not end within the grace time after their connection was closed; the server ended them."
    ),
    "client_disconnected": LogEvent("debug", "A client disconnected while the server sent the response."),
    "config_fields_ignored": LogEvent("warning", "The config.pbtxt has fields that have no effect in kanserve."),
    "connection_limit_reduced": LogEvent(
        "warning", "The limit of open files is lower than max_connections needs; the server takes fewer connections."
    ),
    "connections_not_accepted": LogEvent("error", "The server could not accept connections."),
    "connections_not_renewed": LogEvent(
        "warning", "Connections exceed their maximum age, because no new server could start on the port."
    ),
    "credential_reload_failed": LogEvent(
        "error", "The reload of credential files failed; the previous credentials stay in effect."
    ),
    "custom_operator_disabled": LogEvent(
        "warning", "The graph for the custom operator could not be loaded; the portable graph serves the model."
    ),
    "default_file_rejected": LogEvent(
        "error", "The file with the default version of a model is invalid; the default version stays as it is."
    ),
    "default_version_not_ready": LogEvent(
        "error", "The version that the file of a model names as default version is not ready; another one serves."
    ),
    "default_version_changed": LogEvent("info", "The default version of a model changed."),
    "event_loop_stalled": LogEvent("error", "The event loop is hung; the watchdog ends the process."),
    "insecure_address": LogEvent(
        "warning", "Other machines can reach the server without TLS or without client authentication."
    ),
    "library_message": LogEvent("any", "(the text of the library)"),
    "metrics_requests_rejected": LogEvent("warning", "The metrics port rejected requests."),
    "model_excluded": LogEvent("info", "The version policy excludes a version."),
    "model_files_ignored": LogEvent("info", "The folder of a version has files that its manifest does not list."),
    "model_files_missing": LogEvent("warning", "A version keeps serving although its source files are missing."),
    "model_files_restored": LogEvent("info", "The source files of a served version are present again."),
    "model_load_failed": LogEvent("error", "A version failed to load."),
    "model_loaded": LogEvent("info", "A version is loaded and ready."),
    "model_loading": LogEvent("info", "The load of a version is in progress."),
    "model_rejection_cleared": LogEvent(
        "info", "The rejected files of a version are replaced by those that the server has loaded."
    ),
    "model_removed": LogEvent("info", "A version that was not served is removed from the repository."),
    "model_unload_delayed": LogEvent("warning", "An unloaded version still handles requests."),
    "model_unloaded": LogEvent("info", "A version is unloaded and its memory is free."),
    "models_loading": LogEvent("info", "The load of the versions in the repository started."),
    "output_outside_certified_range": LogEvent(
        "error", "Rows in the certified box have outputs outside of the certified range, which is a bug."
    ),
    "python_warning": LogEvent("warning", "Python issued a warning."),
    "reload_requested": LogEvent("info", "SIGHUP requested a reload of the settings and the repository."),
    "repository_readable": LogEvent("info", "The server can read the repository again."),
    "repository_sync_crashed": LogEvent("error", "A load or a repository scan failed with an internal error."),
    "repository_unreadable": LogEvent("error", "The server cannot read the repository; loaded versions keep serving."),
    "request_completed": LogEvent("info, warning, error", "A request is completed."),
    "request_limit_raised": LogEvent("info", "The request size limit is raised to a full batch of the largest model."),
    "request_limit_too_small": LogEvent("warning", "A full batch of a model exceeds the request size limit."),
    "run_stalled": LogEvent("error", "A graph execution is hung; the server shuts down."),
    "runtime_selected": LogEvent("info", "The runtime, the device and the threads are selected."),
    "server_listening": LogEvent("info", "The ports are open; the server is not ready yet."),
    "server_not_ready": LogEvent("error", "The server is not ready after its first loads, or no longer."),
    "server_ready": LogEvent("info", "The server is ready."),
    "server_starting": LogEvent("info", "The server process started."),
    "server_stopped": LogEvent("info", "The server stopped."),
    "settings_pending_restart": LogEvent("warning", "Changed settings take effect after a restart."),
    "settings_reload_failed": LogEvent(
        "error", "The reload of the settings failed; the previous settings stay in effect."
    ),
    "settings_reloaded": LogEvent("info", "The settings are reloaded."),
    "shadow_started": LogEvent("info", "A shadow deployment started."),
    "shadow_stopped": LogEvent("info", "A shadow deployment stopped."),
    "shutdown_started": LogEvent("info", "The graceful shutdown started."),
    "shutdown_timed_out": LogEvent(
        "error", "The shutdown after a hung graph execution took too long; the watchdog ends the process."
    ),
    "stale_export_removed": LogEvent("info", "Files of an export that was killed are removed from the repository."),
    "statistics_failed": LogEvent("warning", "Traffic statistics of a version could not be computed."),
    "statistics_not_shared": LogEvent(
        "warning", "The workers could not share a folder; each keeps separate traffic statistics."
    ),
    "statistics_read_failed": LogEvent(
        "warning", "Stored traffic statistics could not be read; the server ignores them."
    ),
    "statistics_reset": LogEvent("info", "The traffic statistics of a version are reset."),
    "statistics_unavailable": LogEvent("warning", "A version has no traffic statistics."),
    "statistics_write_failed": LogEvent("warning", "Traffic statistics could not be stored."),
    "stderr_output": LogEvent("warning", "Code wrote to stderr."),
    "stream_request_failed": LogEvent("error", "A request of a stream failed with an internal error."),
    "tls_certificate_loaded": LogEvent("info", "The server certificate is loaded."),
    "token_file_loaded": LogEvent("info", "The token file is loaded."),
    "transport_fallback": LogEvent("warning", "The server falls back to grpcio because asgi is not available."),
    "unhandled_exception": LogEvent("error", "An exception was not handled."),
    "version_edited": LogEvent("info", "An edited version was written to the repository."),
    "worker_exited": LogEvent("error", "A worker process exited; the parent process starts another one."),
    "worker_stalled": LogEvent("error", "A worker process is hung; the parent process kills it."),
    "worker_sync_failed": LogEvent("warning", "This worker could not apply a change from another worker."),
}
