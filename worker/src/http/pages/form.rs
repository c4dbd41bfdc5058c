//! The form that runs something: `assets/form.js` makes a job of it and sends it.

use maud::{Markup, html};
use sway_core::api::jobs::ImageView;
use sway_core::job::Limits;

use super::text::plain;

/// `images` are suggestions; `maxima` what the worker grants.
pub(super) fn body(images: &[ImageView], maxima: &Limits) -> Markup {
    let defaults = Limits::DIRECT;
    let mib = |bytes: u64| bytes >> 20;
    let cpus = |milli: u32| f64::from(milli) / 1000.0;
    html! {
        div .head { h1 { "New run" } }
        p #no-script .notice {
            "This form reads your files with JavaScript, which does not run here. "
            code { "sway run" } " and " code { "sway invoke" } " do the same in a terminal."
        }
        p #no-key .notice hidden {
            "To run something, " a href="/login?next=/new" { "sign in again" } "."
        }
        form #new-run .columns novalidate {
            div .main {
            fieldset .panel {
                legend { "What runs" }
                div .choices role="radiogroup" aria-label="Kind" {
                    label .choice {
                        input type="radio" name="kind" value="handler" checked;
                        span { b { "Handler" } " " span .faint { "a function, called with an event" } }
                    }
                    label .choice {
                        input type="radio" name="kind" value="script";
                        span { b { "Script" } " " span .faint { "a program, run from its beginning" } }
                    }
                }
                (field("files", "Code files", "Python or Node.js; all of them, if there are several.", &html! {
                    input #files type="file" multiple aria-describedby="files-hint files-error";
                }))
                div .field {
                    label for="code" { "or paste the code" }
                    textarea #code rows="9" spellcheck="false" autocapitalize="none" autocomplete="off"
                        aria-describedby="code-error" {}
                    p #code-error .error {}
                }
                div .row {
                    (field("file-name", "File name", "Of the pasted code.", &html! {
                        input #file-name value="main.py" autocapitalize="none" spellcheck="false"
                            aria-describedby="file-name-hint file-name-error";
                    }))
                    div .field data-for="handler" {
                        label for="handler" { "Handler" }
                        input #handler value="main.handler" autocapitalize="none" spellcheck="false"
                            aria-describedby="handler-hint handler-error";
                        p #handler-hint .hint { "module.function" }
                        p #handler-error .error {}
                    }
                    div .field data-for="script" hidden {
                        label for="entry" { "Start with" }
                        input #entry placeholder="main.py" autocapitalize="none" spellcheck="false"
                            aria-describedby="entry-hint entry-error";
                        p #entry-hint .hint { "Which of several files." }
                        p #entry-error .error {}
                    }
                }
            }
            fieldset .panel data-for="handler" {
                legend { "Event" }
                (field("events", "JSON files", "One run for each file.", &html! {
                    input #events type="file" multiple accept=".json,application/json"
                        aria-describedby="events-hint events-error";
                }))
                div .field {
                    label for="event" { "or paste it" }
                    textarea #event rows="5" spellcheck="false" autocapitalize="none" autocomplete="off"
                        aria-describedby="event-hint event-error" {
                        "{\n  \"version\": \"v1\",\n  \"context\": {},\n  \"event\": {}\n}"
                    }
                    p #event-hint .hint { "version is v1, context an object, event what the function gets; 1 MiB at most." }
                    p #event-error .error {}
                }
            }
            fieldset .panel data-for="script" hidden {
                legend { "Arguments" }
                div .field {
                    label for="args" { "Arguments" }
                    textarea #args rows="3" spellcheck="false" autocapitalize="none"
                        aria-describedby="args-hint args-error" {}
                    p #args-hint .hint { "One a line." }
                    p #args-error .error {}
                }
            }
            }
            div .side {
            fieldset .panel {
                legend { "Where and with how much" }
                (field("image", "Image", "Empty: the worker's default for such code.", &html! {
                    input #image list="images" autocapitalize="none" spellcheck="false"
                        aria-describedby="image-hint image-error";
                    datalist #images { @for image in images { option value=(plain(&image.name.to_string())) {} } }
                }))
                div .row.numbers {
                    (number("cpus", "CPUs", "cores", "0.01", cpus(maxima.cpus_milli), cpus(defaults.cpus_milli.min(maxima.cpus_milli))))
                    (number("memory", "Memory", "MiB", "1", as_float(mib(maxima.memory_bytes)), as_float(mib(defaults.memory_bytes.min(maxima.memory_bytes)))))
                    (number("pids", "Processes", "with threads", "1", maxima.pids.into(), defaults.pids.min(maxima.pids).into()))
                    (number("timeout", "Time", "seconds", "any", as_float(maxima.timeout_ms) / 1000.0, as_float(defaults.timeout_ms.min(maxima.timeout_ms)) / 1000.0))
                }
                label .choice {
                    input #network type="checkbox" aria-describedby="network-error";
                    span {
                        b { "Network" } " "
                        span .faint { "reaches the outside, not this machine or its private networks" }
                    }
                }
                p #network-error .error {}
                details {
                    summary { "Environment" }
                    div .field {
                        label for="env" { "Variables" }
                        textarea #env rows="3" spellcheck="false" autocapitalize="none" placeholder="NAME=value"
                            aria-describedby="env-hint env-error" {}
                        p #env-hint .hint { "NAME=value, one a line." }
                        p #env-error .error {}
                    }
                }
            }
            p #form-error .notice role="alert" hidden {}
            div .actions { button #run .primary { "Run" } span #sending .faint role="status" {} }
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "limits for people, far below 2^52")]
fn as_float(count: u64) -> f64 {
    count as f64
}

fn field(id: &str, label: &str, hint: &str, input: &Markup) -> Markup {
    html! {
        div .field {
            label for=(id) { (label) }
            (input)
            p id={ (id) "-hint" } .hint { (hint) }
            p id={ (id) "-error" } .error {}
        }
    }
}

fn number(id: &str, label: &str, unit: &str, step: &str, max: f64, value: f64) -> Markup {
    let described = format!("{id}-hint {id}-error");
    html! {
        (field(id, label, &format!("{unit}, up to {max}"), &html! {
            input id=(id) type="number" inputmode="decimal" min="0" max=(max) step=(step) value=(value)
                aria-describedby=(described);
        }))
    }
}
