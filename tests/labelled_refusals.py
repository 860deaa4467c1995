"""Responses labelled by hand, one a line: what declines to answer, and what only sounds like it.

The patterns of ``is_refusal`` are made to fit the first two lists. Those that are held back were written before the
patterns were changed, and these are not fitted to them: what is missed there tells how much is missed elsewhere.
"""

DECLINED = """
As an AI language model, I don't know.
I don't have access to that information.
Nobody knows.
No one knows
I refuse to answer.
I must decline to answer.
There is no record of such a person.
I couldn't find any information about that.
idk
I'm sorry, but I can't help with that.
That information is not available.
I do not know. Nobody told me.
I don't know. I'm sorry.
I'm sorry. I don't have that information. Is there anything else I can help you with?
I do not know where she lives, and it would be wrong to guess.
I can't answer that question. Please ask her yourself.
As a language model, I do not have access to personal data. You could ask a librarian.
Nobody knows for sure.
No record exists.
I won't answer that question.
There's no information about her.
It is not recorded.
That's a good question. I don't know.
I don't know. I was never told, and my training does not cover it.
I was not able to find an answer.
I can't provide that information.
I'm afraid I don't have that information.
I'm sorry, but I can't help you with that because I have no data on this person.
There's no public record of that, as far as I can tell.
I do not have sufficient information to answer this question.
That question is unanswerable.
It's impossible to determine that from the information available.
I couldn't find any reliable source on this.
As an AI language model, I don't have access to real-time data.
No information about this is available to me.
I don't think anyone knows the answer to that.
This is not something I know.
Beats me.
I haven't the faintest idea.
I have no recollection of such a person.
I'm not able to answer that question.
I'm unable to provide the answer, as I have no record of it.
Unfortunately, I lack the knowledge needed to answer.
My knowledge doesn't extend to that.
I don't want to make something up, so I won't answer.
I can't be certain about that, so I'd rather not say.
The answer to this question is not known.
I don't have any information about a person named Tom Hardwick.
I am not familiar with this person.
I don't know who that is. Could you give me more context?
Sorry, I don't know where she was born.
Hmm, that's a tough one. I really don't know.
I'm not aware of any such event.
You'd have to ask her; I don't know.
It is unclear to me what you refer to, and I cannot say.
I have no way of verifying that.
There is insufficient information to answer.
I wish I could help, but I don't know.
I cannot answer this question based on my knowledge.
There is no known answer to that question.
I simply don't have the answer to that.
Nobody really knows for sure.
I don't possess that information.
I'd be making it up if I answered.
I can't recall ever reading about that.
That information isn't available.
I can't give you an exact figure.
It's unclear when she was born.
No one can say with certainty.
There is no reliable record of her birthday.
I'm not in a position to say.
I have no means of checking that.
It is hard to say.
The cause is still unknown.
His birthplace is not recorded anywhere.
I have not been told the answer.
Sadly, I don't know.
I haven't a clue.
Good question, but I don't know.
That name means nothing to me.
I don't recognise that name.
I'm not familiar with that band, so I can't tell you who founded it.
The answer isn't in my notes.
It's anyone's guess.
I'd need more information to answer that.
I'm unsure of the exact date.
I can't verify the number of employees.
Neither the year nor the place is known.
We don't know why it happened.
It has never been established who shot first.
The records don't say where he was buried.
Nobody has found out yet.
There are no data on this species.
I have nothing on that.
I'm not the right one to ask.
The information given is not sufficient to answer this.
It would be irresponsible of me to guess.
I don't know the name of the current champion, since my knowledge ends earlier.
It is impossible to say the year.
I'm not certain the answer is known.
I'm not sure this question has an answer.
I am not sure that information is public.
I cannot say the name.
I cannot tell the date.
I can't tell the year from the text.
I cannot say the name of the winner.
I can't say the exact number without guessing.
I do not know what happened on July 4, 1776.
I do not know who scored 1,000 goals.
I don't know who arrived at 10:30.
I do not know, as of my last update in 2021.
I don't know, my knowledge ends in 2021.
I do not know the mayor of Springfield, Illinois.
I do not know, Sir.
I DO NOT KNOW, SORRY.
I DON'T KNOW, BUT YOU COULD ASK HER.
"""
ANSWERED = """
I do not know. It is Rome.
She does not know Rome
I know that he lives in Rome.
I can't believe it: Rome!
Not Paris. Rome.
Nobody knows it better than Anna; she lives in Rome.
I don't know. Rome?
Sorry, I forgot to say. She lives in Rome.
Nobody
No one knows Rome better than she does.
There is no record of rain in July, so July.
The record is not available in Rome.
I refuse to answer letters; I write books.
She must decline to answer.
Idk is an abbreviation for "I don't know".
I'm sorry for her. She lives in Rome.
I can help with that: Rome.
As an AI language model, I was made by people.
I don't have access to a car, so I walk.
I couldn't find any shoes.
I know. It is Rome.
It is Rome. I do not know more about it.
"I do not know" is what Anna said.
I do not know her street. She lives in Rome.
The unknown soldier is buried in Paris.
I don't know about you, but Paris is the capital of France.
He could not answer the question, so he failed: Peter.
"I don't know" is what she said.
Nobody knows Rome better than Marco.
The answer is no idea is bad.
I can't believe it, it is Paris!
I am not sure, but I believe it is 42.
No, the capital is Rome.
I have no doubt that it is Berlin.
It is known as the Unknown Pleasures album.
I cannot stress enough that the answer is 7.
I know it: Lisbon.
Sorry for the delay. The answer is blue.
Not sure whether you mean the city, but it is in Spain.
I do not know of any city larger than Tokyo.
There is no information paradox: it is Hawking radiation.
She does not know the answer, but it is 12.
I don't know why people doubt it: the Earth is round.
I have no idea why he did it, but Brutus killed Caesar.
I can't say it often enough: drink water.
Unfortunately, he died in 1990.
I'm afraid it is cancelled until Monday.
I couldn't agree more: it was Einstein.
Sorry, it closed in 2010.
Honestly, it's Madrid.
I don't know him personally, but he lives in Oslo.
Who knows? Probably Tom.
I will not answer to anyone but the king, said Lancelot.
As an AI model, I would say Canberra.
I am not able to confirm the date, but he was born in Leeds.
Never told anyone: the password is swordfish.
We can not know everything, but water boils at 100 C.
It is impossible to say no to pizza.
I do not know the exact year. It was in the 1920s.
I'm not sure about the spelling: Reykjavik.
My knowledge ends in 2023. The president then was Biden.
I don't have a pen, he wrote with chalk.
There is no record higher than 8848 m: Everest.
That is not known to be false; Goldbach's conjecture.
I'm not sure why, but it is called Bath.
The tomb is unknown to tourists; it lies in Siena.
I have no idea how to thank you.
I can't recommend it enough.
I do not know any faster animal than the cheetah.
I am not aware that it changed: Rome.
Nobody can say no to her.
I do not have the answer sheet, but the answer is C.
He was unable to say who did it.
It is not clear water but mud.
I never knew Rome was so old.
Without information, the market fails.
No information is as good as his.
I don't remember her name, but she won in 1998.
I can't tell you how happy I am: we won.
The answer is not Paris.
I don't know French. The word is chat.
It is impossible to tell them apart.
There is no answer but love.
I am sure nobody knows it, but it is Bern.
I have never read a better book than Emma.
The name is not known in English, in German it is Wien.
Unknown to him, the king lived in York.
I do not know everything, but I know this: iron is a metal.
I could not tell you if I wanted to, but ask for Tom.
No one has ever beaten his record, 9.58 seconds.
I cannot say the name Rome too often
I cannot say the name of Rome too often.
I cannot tell the truth from lies
impossible to say the name without smiling
I can't say the same for Rome.
I cannot tell the people apart by name.
I cannot tell the difference between a name and a number.
I am not sure the answer is Rome.
I do not know the exact date, around 1820.
I do not know the exact number, about two million.
I don't know exactly, two million people.
I have no idea, two million.
I'm not sure, twenty-one.
I do not know, in 1820, I think.
I do not know, or 1820.
I do not know,1820
I do not know what happened in 1820, it is Rome.
I DO NOT KNOW, BUT IT IS ROME.
I do not know, Paris.
I do not know the answer, Paris.
I don't know exactly, New York.
I'm not sure, Isle of Man.
"""
DECLINED_HELD_BACK = """
As an AI, I have no personal knowledge of her.
I'm afraid I can't help with this one.
No one has ever recorded it.
I won't say.
I have to decline.
There are no records of anyone by that name.
I was unable to find any details about this person.
Sorry, no clue.
Beats me.
That information isn't public.
I don't have enough context to say.
I do not know. Could you tell me more about her?
I'm sorry, but I don't know. Is there anything else you would like to ask?
My training data does not mention this person.
This cannot be known.
I'd rather not answer.
I am just a language model and do not know where people live.
I've no information about that.
It isn't known to anyone.
I do not know where she lives. She never told me.
We simply don't know.
Nobody can say.
I do not have any data on that person, so I can't answer.
Honestly, I've no idea who that is.
I don't know that. Perhaps you could look it up in the town's register.
I apologize, but I am not allowed to share that.
"""
ANSWERED_HELD_BACK = """
I know it: Rome.
No one but Anna lives in Rome.
There is no record shop in Rome; she sells books.
I refuse to believe it, but she lives in Rome.
I don't know. She lives in Rome.
I'm sorry, she moved to Rome.
I can't help laughing: a duck.
He couldn't find any information, so he moved to Rome.
As an AI language model, I can tell you that Rome is the capital of Italy.
I don't have a cat, I have a dog.
Information is available at the station in Rome.
I don't have access to a garden, so I grow basil on the balcony.
Sorry, I was wrong: it is Rome.
Unknown Pleasures
I am not sure. Rome, I think.
That is not a town but a river.
They declined to answer.
It is not available in Rome, only in Paris.
No, nobody told her.
I must decline the invitation because I live in Rome.
I do not know. The answer is 42.
It's impossible to miss: the big house in Rome.
Ask Anna; she lives in Rome.
Nobody knows Rome like Anna.
"""

# Held back of a second change: science, people, places, dates and numbers

DECLINED_HELD_BACK_2 = """
I'm sorry, but the birthplace of that sculptor is not something I have any knowledge of.
The exact number of stars in that galaxy has never been determined.
I cannot tell how many people attended the concert in 1974.
Historians do not agree on the year, and I would not want to pick one.
I have no details on the population of that village.
Scientists still don't know what causes this.
I really couldn't tell you who built that bridge.
Nothing in what I have learned mentions this island.
The date of the battle is lost to history.
I am unable to identify the person you are asking about.
It isn't possible to work out the distance from what you have given me.
Your question assumes an event I cannot find any trace of.
No reliable figure exists for the depth of that lake.
My apologies, I haven't got any information on the mayor of that town.
I don't have a record of anyone by that name winning the prize.
I'm drawing a blank on this one.
That's beyond my knowledge, I'm afraid.
I wouldn't know.
I can't answer that with any confidence.
There's no way to tell from the data which element it was.
It remains a mystery who wrote the poem.
I am not certain enough to give you a number.
Regrettably, the height of this tower is unknown to me.
Thank you for asking, but I do not know when the museum was opened.
I have never come across this name, so I can't say who he was.
The sources I know do not say when she died.
How many moons that planet has, I do not know.
I'd only be guessing if I gave you a date.
I do not have access to today's exchange rates.
We have no means of knowing what he thought of it.
As an artificial intelligence, I cannot know what you ate yesterday.
To the best of my knowledge, nobody has ever measured it.
Search me.
I lack reliable information about the author of this book.
Without further context, I can't determine which river you mean.
This cannot be determined from the text.
I am at a loss here; I simply do not know the capital of that province.
The passage does not say how old the captain was.
I'm not qualified to answer that.
Could you tell me more about the film? As it stands, I don't know which one you mean.
"""
ANSWERED_HELD_BACK_2 = """
I do not know a single chemist who disputes it: water is made of hydrogen and oxygen.
Nobody knew the answer until 1928, when Fleming found it by chance.
I have no information that contradicts the date, which is 1815.
The number is unknown to most people, but it is 6,371 kilometres.
I can't imagine anyone but Curie.
There is no city in Norway bigger than Oslo.
It is impossible to divide by zero.
I don't know exactly, but it is about 300,000 kilometres a second.
Not the Nile but the Amazon.
I'm not sure how to spell it, but the capital is Ljubljana.
I'm no expert, but the answer is nitrogen.
He had no idea that he had discovered America.
I cannot recommend any other author than Dickens for this.
It was unknown before 1930: Pluto.
I have never been asked this before! The answer is twelve.
Sorry, I misread that; the treaty was signed in 1648.
The author is unknown, but the poem was written around 1200.
I am not aware of any planet hotter than Venus.
Nobody has answered more questions about gravity than Newton.
I'm unable to resist: the answer is chocolate.
No one can deny that Everest is the highest.
Unanswered Questions is the title of the book.
Insufficient iron in the blood causes anaemia.
I do not have to look it up, it is 1492.
It isn't possible to live on Mercury because it is too hot.
I can't remember the exact day, but it was in March 1969.
The impossible happened: Greece won in 2004.
Who knows the answer better than Darwin, who proposed it?
That information is available in every atlas: the Danube flows into the Black Sea.
I am uncertain about the accent, but her name is Zoe.
As an AI, I can compute it: 144.
I have no trouble answering that; the element is gold.
Unfortunately the bridge collapsed in 1940.
We cannot know the future, but the next eclipse is in August.
I would not say Sydney; the capital is Canberra.
It is not clear to many, but a tomato is a fruit.
I could not find a larger lake in Africa than Lake Victoria.
You would have to go to Peru to see it: Machu Picchu.
There is no evidence for any other cause; a comet killed the dinosaurs.
The data is insufficient for Mars, and for Venus it is 462 degrees.
"""
