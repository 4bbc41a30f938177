//! Texts to tokens, here or in threads. Answers are taken in the order of the questions, so threads change no order.

use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

type Answer = std::result::Result<Vec<u32>, String>;

/// Encodes documents.
pub(crate) struct Encoder {
    tokenizer: Arc<Tokenizer>,
    /// None where it encodes when asked.
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

struct Job {
    text: String,
    answer: Sender<Answer>,
}

/// Tokens that are there or come.
pub(crate) enum Encoding {
    Ready(Answer),
    Waiting(Receiver<Answer>),
}

impl Encoding {
    /// The tokens, or why the tokenizer fails.
    pub(crate) fn wait(self) -> Result<Answer> {
        match self {
            Encoding::Ready(answer) => Ok(answer),
            Encoding::Waiting(answer) => answer.recv().map_err(|_| Error::Ended),
        }
    }
}

impl Encoder {
    /// An encoder of so many threads; of none, it encodes in the caller's.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, workers: usize) -> Arc<Encoder> {
        if workers == 0 {
            return Arc::new(Encoder { tokenizer, jobs: None, threads: Vec::new() });
        }
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..workers)
            .map(|_| {
                let (queue, tokenizer) = (queue.clone(), tokenizer.clone());
                std::thread::spawn(move || work(&queue, &tokenizer))
            })
            .collect();
        Arc::new(Encoder { tokenizer, jobs: Some(jobs), threads })
    }

    /// Begins to encode a document.
    pub(crate) fn encode(&self, text: String) -> Encoding {
        let Some(jobs) = &self.jobs else { return Encoding::Ready(self.tokenizer.encode(&text)) };
        let (answer, waiting) = channel();
        // Where every thread has ended, nobody answers, and `wait` says so.
        let _ = jobs.send(Job { text, answer });
        Encoding::Waiting(waiting)
    }
}

fn work(queue: &Mutex<Receiver<Job>>, tokenizer: &Tokenizer) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A stream that is gone wants no answer.
        let _ = job.answer.send(tokenizer.encode(&job.text));
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // It holds nothing that a panic could leave half done.
            let _ = thread.join();
        }
    }
}
